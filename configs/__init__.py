"""What a person edits: model, data and schedule by name, read by mmengine."""
