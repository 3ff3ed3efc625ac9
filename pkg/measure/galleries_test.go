package measure_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// Everybody has an axis of their own, so only their own template matches.
func TestIdentifyInGallery(t *testing.T) {
	t.Parallel()
	const people = 12
	axis := func(i int) measure.Photo {
		e := make(face.Embedding, people+1)
		e[i] = 1
		return measure.Photo{Embeddings: []face.Embedding{e}}
	}
	photos := map[string]measure.Photo{"failed/1": {Failure: "no_face"}}
	for i := range people {
		for n := range 1 + i%3 {
			photos[fmt.Sprintf("%d/%d", i, n)] = axis(i)
		}
	}
	photos["2/0"] = measure.Photo{Failure: "no_face"} // another photo is enrolled
	names, _ := folderSet(photos)
	o := measure.DefaultOptions()
	o.Replicates = 100
	got, err := measure.IdentifyInGallery(names, photos, nil, people-1, halfPoint(), o)
	if err != nil {
		t.Fatal(err)
	}
	at := got.Points[0]
	if got.Gallery != people-1 || got.Draws != 10 || at.Observed != (measure.Rate{Total: 10 * 23}) || at.DIR.Count != at.DIR.Total || at.DIR.Total == 0 {
		t.Errorf("gallery %d, %d draws, strangers %v, found %v", got.Gallery, got.Draws, at.Observed, at.DIR)
	}

	strangers := []measure.Photo{axis(people), axis(0), {Failure: "no_face"}}
	if got, err = measure.IdentifyInGallery(names, photos, strangers, people, halfPoint(), o); err != nil {
		t.Fatal(err)
	}
	if at := got.Points[0]; at.Observed != (measure.Rate{Count: 10, Total: 20}) || got.Strangers != (measure.Rate{Count: 20, Total: 30}) {
		t.Errorf("strangers named %v, searched for %v", at.Observed, got.Strangers)
	}
	if _, err := measure.IdentifyInGallery(names, photos, nil, people, halfPoint(), o); !errors.Is(err, face.Invalid) {
		t.Errorf("nobody can stand in: %v", err)
	}
}
