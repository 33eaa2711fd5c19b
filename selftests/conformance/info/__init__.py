"""What the kernel says of a link, field by field and line by line, and links to many places."""
