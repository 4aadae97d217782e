"""Three views, and Django's own for logging in."""

from django.contrib.auth.views import LoginView
from django.urls import path

from mysite import views

urlpatterns = [
    path("", views.index),
    path("token", views.token),
    path("greet/<int:user_id>", views.greet),
    path("accounts/login/", LoginView.as_view(template_name="login.html")),
]
