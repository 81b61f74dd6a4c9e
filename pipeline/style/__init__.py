"""The stage that gives segments codes of style, and the fit of a style model."""
