"""What the commands of `meta_train.cli` do."""
