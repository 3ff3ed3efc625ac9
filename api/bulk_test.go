package api_test

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestBulkNumbers: the numbers of an embedding survive, whichever form they
// come in.
func TestBulkNumbers(t *testing.T) {
	t.Parallel()
	numbers := api.BulkEmbedding{1, -0.1, math.SmallestNonzeroFloat32, math.MaxFloat32, 1.0 / 3, 0, float32(math.Copysign(0, -1))}
	line, err := api.AppendBulkSubject([]byte("before\n"), api.BulkSubject{
		SubjectID: "ada", Templates: api.BulkTemplates{{TemplateID: "t", ModelID: "m", Embedding: numbers, Quality: new(float32(0.1))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	line, ok := bytes.CutPrefix(line, []byte("before\n"))
	if !ok || bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
		t.Fatalf("not one line: %q", line)
	}
	b, err := api.ParseBulkSubject(line)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range b.Templates[0].Embedding {
		if math.Float32bits(v) != math.Float32bits(numbers[i]) {
			t.Errorf("%v became %v", numbers[i], v)
		}
	}
	if *b.Templates[0].Quality != 0.1 {
		t.Errorf("quality %v", *b.Templates[0].Quality)
	}
	b, err = api.ParseBulkSubject([]byte(`{"subject_id":"ada","templates":[{"template_id":"t","model_id":"m","embedding":[ 1,-0.1,1e-45, 3.4028235e38,0.33333334,0,-0 ]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(numbers, b.Templates[0].Embedding); diff != "" {
		t.Error(diff)
	}
}

// TestBulkLongLine: a line may be longer than any other field of the contract.
func TestBulkLongLine(t *testing.T) {
	t.Parallel()
	b := api.BulkSubject{SubjectID: "ada"}
	for range 200 {
		b.Templates = append(b.Templates, api.BulkTemplate{
			TemplateID: "t", ModelID: "m", Embedding: make(api.BulkEmbedding, 512), Crop: bytes.Repeat([]byte{7}, 10<<10),
		})
	}
	line, err := api.AppendBulkSubject(nil, b)
	if err != nil || len(line) > api.MaxBulkLine {
		t.Fatalf("%d bytes, %v", len(line), err)
	}
	got, err := api.ParseBulkSubject(line)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(b, got) { // much faster than a diff
		t.Error("the line reads otherwise than it was written")
	}
	_, err = api.ParseBulkSubject([]byte(`{"subject_id":"ada","external_id":"` + strings.Repeat("x", 200<<10) + `"}`))
	if e := api.BodyError(err); e.Kind != face.TooLarge || e.Fields[0].Pointer != "/external_id" {
		t.Errorf("%v", err)
	}
}

// FuzzBulk: a line is refused as the caller's fault, or read; and what was
// read is written as a line that reads the same.
func FuzzBulk(f *testing.F) {
	for _, s := range []string{
		`{"subject_id":"ada","name":"Ada","metadata":{"a": [1,"]}"]},"created_at":"2026-11-23T09:30:00.123456Z"}`,
		`{"subject_id":"x","templates":[{"template_id":"t","model_id":"m","embedding":"AACAPw==","crop":"AQID","quality":0.5},{"template_id":"u","model_id":"m","embedding":[0.6, 8e-1]}]}`,
		`{"subject_id":"x","templates":[ ]}`, `{"subject_id":"x","templates":[[],{}]}`, `{"templates":[{"embedding":null}]}`, `[]`, `{`, "",
		`{"subject_id":"<\u2028>","metadata":{"<":"\u0000"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := api.ParseBulkSubject(data)
		if err != nil {
			if kind := api.BodyError(err).Kind; kind != face.Invalid && kind != face.TooLarge {
				t.Fatalf("refused as %v", err)
			}
			return
		}
		line, err := api.AppendBulkSubject(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := api.ParseBulkSubject(line)
		if err != nil {
			t.Fatalf("%q was written as %q: %v", data, line, err)
		}
		second, err := api.AppendBulkSubject(nil, again)
		if err != nil || !bytes.Equal(line, second) {
			t.Errorf("%q, then %q, %v", line, second, err)
		}
	})
}
