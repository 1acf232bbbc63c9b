"""The image formats that are read.

Their readers are Pillow's own or well-kept libraries. Not among them is EPS, for which Pillow starts
Ghostscript on whatever a file holds, whatever its name. MPO files are opened as the JPEG they begin with.
"""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
