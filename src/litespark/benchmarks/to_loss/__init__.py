"""What it takes to equal quality: variants train on the same stream until the validation reaches a target."""
