"""Two views, the token for the page, and Django's own view for logging in."""

from django.contrib.auth.views import LoginView
from django.urls import path

from heliograph.contrib.django import token_view
from mysite import views

urlpatterns = [
    path("", views.index),
    path("token", token_view(channels=["news"])),  # signed with HELIOGRAPH_AUTH__SECRET, as the replicas check it
    path("greet/<int:user_id>", views.greet),
    path("accounts/login/", LoginView.as_view(template_name="login.html")),
]
