package api_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
)

// TestBase64 reads bytes in all the ways that clients write them.
func TestBase64(t *testing.T) {
	t.Parallel()
	bytes := []byte{0xfb, 0xff, 0xbf, 1} // "+/+/AQ==" in the standard alphabet
	for text, want := range map[string][]byte{
		`+/+/AQ==`:                               bytes,
		`+/+/AQ`:                                 bytes,
		`-_-_AQ==`:                               bytes,
		`-_-_AQ`:                                 bytes,
		`+\/+\/AQ==`:                             bytes, // as PHP writes it
		`\u002b/+/AQ==`:                          bytes,
		`+/+\r\n/AQ=\n=\r\n`:                     bytes, // as MIME does
		`-_-_\nAQ\n`:                             bytes,
		`data:image/jpeg;base64,+/+/AQ==`:        bytes,
		`data:image/jpeg;base64,-_-_AQ`:          bytes,
		`data:;base64,+/+/AQ==`:                  bytes,
		`DATA:image/PNG;name=a.png;BASE64,+/+/`:  bytes[:3],
		`data:image/png;base64,%2B%2F+/AQ%3D%3D`: bytes,
		``:                                       {},
		`+/-_`:                                   nil, // one alphabet or the other
		`+/+/AQ=`:                                nil,
		`+/+/AQ===`:                              nil,
		`+/+/A`:                                  nil,
		`+/+/ AQ==`:                              nil, // a form may have made the space of a +
		`+=/+/AQ=`:                               nil,
		`data:image/png,+/+/AQ==`:                nil,
		`data:image/png;base64`:                  nil,
		`data:image/png;base64,%`:                nil,
		`blob:x`:                                 nil,
		`/tmp/photo.jpg`:                         nil,
	} {
		var image api.DetectRequest
		var images api.RecognizeRequest
		single := json.Unmarshal([]byte(`{"image":"`+text+`"}`), &image)
		several := json.Unmarshal([]byte(`{"probe":["AQID","`+text+`"]}`), &images)
		if want == nil {
			wantInvalid(t, single, "/image", "must be base64")
			wantInvalid(t, several, "/probe/1", "must be base64")
			continue
		}
		if single != nil || several != nil {
			t.Errorf("%s: %v, %v", text, single, several)
			continue
		}
		if diff := cmp.Diff([][]byte{want, want}, [][]byte{image.Image, images.Probe[1]}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}
