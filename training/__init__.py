"""Recipes for weights that the project trains itself; run from a checkout, part of no wheel and no image."""
