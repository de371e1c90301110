"""F1: whom to ask, when to ask, and when to close. Pure: time arrives as an event."""
