"""An experiment: all self-supervised objectives under one budget."""
