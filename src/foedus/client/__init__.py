"""What people's programs call over HTTP; the command line stands on it."""
