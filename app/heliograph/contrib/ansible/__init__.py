"""A directory for ANSIBLE_CALLBACK_PLUGINS. What stands beside this file is licensed as it says itself."""
