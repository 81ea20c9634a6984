"""The laws of the library, put to a student's answer."""
