"""An experiment: which half of a mixed pool is worth pre-training on?"""
