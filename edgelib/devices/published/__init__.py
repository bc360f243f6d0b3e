"""Times that others published, the devices that only they have, and what such times share."""
