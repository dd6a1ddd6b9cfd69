"""Reading checkpoint files of strangers: their content by name, safely, whatever the kind of file."""
