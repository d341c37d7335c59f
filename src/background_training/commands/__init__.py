"""The commands, a module for each verb of `background-training` and each script of tools/."""
