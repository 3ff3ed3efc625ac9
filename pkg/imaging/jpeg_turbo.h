// What decode_jpeg made of a JPEG.
enum {
	JPEG_DECODED,
	JPEG_NOT_WHOLE, // libjpeg refuses it, does not convert its colours, or warns that it mends something
	JPEG_TOO_MANY_SCANS,
	JPEG_STOPPED,
};

// decode_jpeg decodes size bytes at src, at eighths/8 of the full size, into
// height rows of width RGBA pixels at dst. It ends soon after stop, which is
// read atomically, is no longer 0.
int decode_jpeg(const unsigned char *src, unsigned long size, int eighths, int max_scans, const int *stop,
	unsigned char *dst, int width, int height);
