"""Producers: games that play with the present model and deposit what they lived through."""
