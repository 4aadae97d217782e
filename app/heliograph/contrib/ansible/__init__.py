"""A directory for ANSIBLE_CALLBACK_PLUGINS. The plugin beside this file has a licence of its own."""
