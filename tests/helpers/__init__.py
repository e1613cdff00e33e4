"""What the tests and the commands share. The commands use those that need no package."""
