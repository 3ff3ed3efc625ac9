//go:build turbojpeg && cgo

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>

#include <jerror.h>
#include <jpeglib.h>

#include "jpeg_turbo.h"

#ifndef JCS_ALPHA_EXTENSIONS
#error "the build tag turbojpeg needs libjpeg-turbo (Debian: libjpeg62-turbo-dev), not another libjpeg"
#endif

struct decoding {
	struct jpeg_decompress_struct jpeg; // its client_data is the decoding
	struct jpeg_error_mgr errors;
	struct jpeg_progress_mgr progress;
	jmp_buf end;
	int result;
	int max_scans;
	const int *stop;
};

// end leaves run with a result.
static void end(j_common_ptr jpeg, int result)
{
	struct decoding *d = jpeg->client_data;
	d->result = result;
	longjmp(d->end, 1);
}

static void on_error(j_common_ptr jpeg) { end(jpeg, JPEG_NOT_WHOLE); }

// on_message lets pass that there is no end-of-image marker: nothing of the
// picture is lost with it, and where more is missing another warning comes.
static void on_message(j_common_ptr jpeg, int level)
{
	if (level < 0 && jpeg->err->msg_code != JWRN_JPEG_EOF)
		end(jpeg, JPEG_NOT_WHOLE);
}

// on_progress is called for each row of blocks of each scan.
static void on_progress(j_common_ptr jpeg)
{
	struct decoding *d = jpeg->client_data;
	if (__atomic_load_n(d->stop, __ATOMIC_RELAXED))
		end(jpeg, JPEG_STOPPED);
	if (d->jpeg.input_scan_number > d->max_scans)
		end(jpeg, JPEG_TOO_MANY_SCANS);
}

static void run(struct decoding *d, const unsigned char *src, unsigned long size, int eighths,
	unsigned char *dst, int width, int height)
{
	enum { BATCH = 8 }; // rows asked for at once; libjpeg gives 4 at most
	JSAMPROW rows[BATCH];
	struct jpeg_decompress_struct *jpeg = &d->jpeg;

	if (setjmp(d->end))
		return;
	jpeg_create_decompress(jpeg);
	jpeg->progress = &d->progress;
	jpeg_mem_src(jpeg, src, size);
	jpeg_read_header(jpeg, TRUE);
	jpeg->scale_num = eighths;
	jpeg->scale_denom = 8;
	jpeg->out_color_space = JCS_EXT_RGBA;
	jpeg_start_decompress(jpeg);
	if ((int)jpeg->output_width != width || (int)jpeg->output_height != height)
		end((j_common_ptr)jpeg, JPEG_NOT_WHOLE);
	while (jpeg->output_scanline < jpeg->output_height) {
		int n = height - (int)jpeg->output_scanline;
		if (n > BATCH)
			n = BATCH;
		for (int i = 0; i < n; i++)
			rows[i] = dst + (size_t)4 * width * (jpeg->output_scanline + i);
		jpeg_read_scanlines(jpeg, rows, n);
	}
	jpeg_finish_decompress(jpeg);
	d->result = JPEG_DECODED;
}

int decode_jpeg(const unsigned char *src, unsigned long size, int eighths, int max_scans, const int *stop,
	unsigned char *dst, int width, int height)
{
	struct decoding d = {.max_scans = max_scans, .stop = stop};

	d.jpeg.err = jpeg_std_error(&d.errors);
	d.errors.error_exit = on_error;
	d.errors.emit_message = on_message;
	d.jpeg.client_data = &d;
	d.progress.progress_monitor = on_progress;
	run(&d, src, size, eighths, dst, width, height);
	jpeg_destroy_decompress(&d.jpeg);
	return d.result;
}
