"""MIME without I/O: bytes of a message in, finished values out. Starts at `facts` (delivery) and `parse` (sections)."""
