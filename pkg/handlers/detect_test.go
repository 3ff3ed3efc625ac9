package handlers_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestDetect(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	three := photo(person{number: 1}, person{number: 2}, person{number: 3, poor: true})
	if got := good[api.DetectResponse](t, h.post(t, "/detect", fields{"image": three}), 200); len(got.Faces) != 3 {
		t.Errorf("got %+v", got)
	}
	got := good[api.DetectResponse](t, h.ask(t, fields{"image": three, "max_faces": 2}.form(t, http.MethodPost, "/detect")), 200)
	if len(got.Faces) != 2 || got.Faces[1].Box.X != 1 || got.FacesFound != 3 {
		t.Errorf("got %+v", got)
	}
	if got := good[api.DetectResponse](t, h.post(t, "/detect", fields{"image": photo()}), 200); len(got.Faces) != 0 {
		t.Errorf("got %+v", got)
	}
	bad(t, h.post(t, "/detect", fields{"image": three, "max_faces": 0}), face.Invalid, "/max_faces")
}

func TestEmbed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	got := good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}), "encoding": "float32"}), 200)
	raw, err := base64.StdEncoding.DecodeString(got.Faces[0].Embedding.(string))
	if err != nil {
		t.Fatal(err)
	}
	want := vector(4, 0)
	for i := range want {
		if v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); v != want[i] {
			t.Fatalf("number %d: %v, want %v", i, v, want[i])
		}
	}
	got = good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5}), "face": "all"}), 200)
	if n := got.Faces[1].Embedding.([]any); len(got.Faces) != 2 || got.FacesFound != 2 || float32(n[0].(float64)) != vector(5, 0)[0] {
		t.Errorf("got %+v", got)
	}
	got = good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5}), "face": "largest"}), 200)
	if len(got.Faces) != 1 || got.FacesFound != 2 {
		t.Errorf("got %+v", got)
	}
	bad(t, h.post(t, "/embed", fields{"image": photo()}), face.NoFace, "/image")
	bad(t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5})}), face.ManyFaces, "/image")
}
