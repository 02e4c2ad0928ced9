"""A trained model as functions of flat parameters, and those functions as files that need no code of this project."""
