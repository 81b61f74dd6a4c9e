"""From a recording's bytes to samples, and where in it somebody speaks."""
