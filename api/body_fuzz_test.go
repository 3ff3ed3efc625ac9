package api_test

import (
	"bytes"
	"io"
	"mime/multipart"
	"testing"
	"testing/iotest"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// FuzzTwoImages sends two images of any bytes in one body: they come out as
// they went in, in fields of one image and in one of several, unless one of
// them is over the limit. A body that is cut anywhere is refused.
func FuzzTwoImages(f *testing.F) {
	const boundary, limit = "a-line-that-no-photo-has-in-it", 256
	f.Add([]byte("one"), []byte("two"), uint8(1))
	f.Add([]byte{}, []byte{}, uint8(40))
	f.Add([]byte("\r\n--"), []byte("\r\n--"+boundary[:20]), uint8(200))
	f.Add([]byte("--"), bytes.Repeat([]byte("\r\n"), 60), uint8(3))
	f.Add(bytes.Repeat([]byte{0xff}, limit), bytes.Repeat([]byte{0xd8}, limit+1), uint8(100))
	f.Fuzz(func(t *testing.T, one, two []byte, cut uint8) {
		if bytes.Contains(one, []byte(boundary)) || bytes.Contains(two, []byte(boundary)) {
			return
		}
		body := func(first, second string) []byte {
			var b bytes.Buffer
			w := multipart.NewWriter(&b)
			if err := w.SetBoundary(boundary); err != nil {
				t.Fatal(err)
			}
			for _, p := range []struct {
				name string
				data []byte
			}{{first, one}, {second, two}} {
				part, err := w.CreateFormFile(p.name, "photo.jpg")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := part.Write(p.data); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}
		read := func(data []byte, into any) error {
			return api.ReadForm(multipart.NewReader(bytes.NewReader(data), boundary), into, limit)
		}
		var pair api.VerifyRequest
		var several api.RecognizeRequest
		errPair, errSeveral := read(body("probe", "reference"), &pair), read(body("probe", "probe"), &several)
		if max(len(one), len(two)) > limit {
			if face.KindOf(errPair) != face.TooLarge || face.KindOf(errSeveral) != face.TooLarge {
				t.Fatalf("over the limit: %v, %v", errPair, errSeveral)
			}
			return
		}
		if errPair != nil || errSeveral != nil {
			t.Fatal(errPair, errSeveral)
		}
		if !bytes.Equal(pair.Probe, one) || !bytes.Equal(pair.Reference, two) {
			t.Fatalf("probe %q, reference %q", pair.Probe, pair.Reference)
		}
		if len(several.Probe) != 2 || !bytes.Equal(several.Probe[0], one) || !bytes.Equal(several.Probe[1], two) {
			t.Fatalf("probes %q", several.Probe)
		}
		whole := body("probe", "reference")
		end := bytes.LastIndex(whole, []byte("--"+boundary)) + len("--"+boundary) // the mark of the end follows
		left := end - int(cut)%end
		source := io.MultiReader(bytes.NewReader(whole[:left]), iotest.ErrReader(io.ErrUnexpectedEOF))
		if err := api.ReadForm(multipart.NewReader(source, boundary), new(api.VerifyRequest), limit); face.KindOf(err) != face.Invalid {
			t.Fatalf("cut to %d of %d bytes: %v", left, len(whole), err)
		}
	})
}
