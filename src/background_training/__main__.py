"""`python -m background_training VERB` is `background-training VERB`."""

from background_training import cli

cli.main("python -m background_training")
