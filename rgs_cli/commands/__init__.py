"""One module per verb: parse, resolve the config, call the stage, emit."""
