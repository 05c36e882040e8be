"""An experiment: every self-supervised objective under one budget."""
