"""Units in the files of other projects, a module a format."""
