"""Consumers: the background learner, its monitor and the commands around them."""
