package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestJSON reads bodies, good and bad, and looks at where the blame points.
func TestJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		want       api.VerifyRequest
		pointer    string // of the refusal
		detail     string // part of the refusal; empty when the body is good
	}{
		{
			name: "photo and subject", body: `{"probe":"AQID","subject_id":"ada","face":"largest"}`,
			want: api.VerifyRequest{Probe: []byte{1, 2, 3}, SubjectID: new("ada"), Face: new(api.FaceRuleLargest)},
		},
		{
			name: "space and escapes", body: " {\n\t\"probe\" : \"AQ\\u0049D\" , \"gallery\":\"a,b:c}]\\\"\" } ",
			want: api.VerifyRequest{Probe: []byte{1, 2, 3}, Gallery: new(`a,b:c}]"`)},
		},
		{
			name: "embedding", body: `{"probe_embedding":[1, -2.5e-1],"model_id":"m"}`,
			want: api.VerifyRequest{ProbeEmbedding: []float32{1, -0.25}, ModelID: new("m")},
		},
		{name: "empty object", body: `{}`},
		{name: "unknown", body: `{"a/b~":{"x":[1,{"y":2}]}}`, pointer: "/a~1b~0", detail: "unknown"},
		{name: "case matters", body: `{"Probe":"AQID"}`, pointer: "/Probe", detail: "unknown"},
		{name: "twice", body: `{"probe":"AQID","probe":"AQID"}`, pointer: "/probe", detail: "more than once"},
		{name: "twice, escaped", body: `{"probe":"AQID","pro\u0062e":"AQID"}`, pointer: "/probe", detail: "more than once"},
		{name: "not base64", body: `{"probe":"AQ?D"}`, pointer: "/probe", detail: "must be base64"},
		{name: "number for text", body: `{"subject_id":7}`, pointer: "/subject_id", detail: "must be a string"},
		{name: "text for number", body: `{"probe_embedding":["NaN"]}`, pointer: "/probe_embedding", detail: "must be an array of 1 to 4096 numbers"},
		{name: "number too large", body: `{"probe_embedding":[1e999]}`, pointer: "/probe_embedding", detail: "numbers from -3.4e38 to 3.4e38"},
		{name: "null for number", body: `{"probe_embedding":[1,null]}`, pointer: "/probe_embedding", detail: "numbers"},
		{name: "too few numbers", body: `{"probe_embedding":[]}`, pointer: "/probe_embedding", detail: "1 to 4096"},
		{name: "too many numbers", body: `{"probe_embedding":[1` + strings.Repeat(",1", 4096) + `]}`, pointer: "/probe_embedding", detail: "1 to 4096"},
		{name: "too long", body: `{"model_id":"` + strings.Repeat("é", 129) + `"}`, pointer: "/model_id", detail: "at most 128 characters"},
		{name: "NUL", body: `{"model_id":"a\u0000b"}`, pointer: "/model_id", detail: "NUL"},
		{name: "NaN", body: `{"probe_embedding":[NaN]}`, detail: "not JSON"},
		{name: "not UTF-8", body: "{\"gallery\":\"a\xff\"}", pointer: "/gallery", detail: "UTF-8"},
		{name: "array of text", body: `{"probe_embedding":[["1"]]}`, pointer: "/probe_embedding", detail: "array"},
		{name: "null", body: `{"probe":null}`, pointer: "/probe", detail: "null"},
		{name: "not of the enum", body: `{"face":"all"}`, pointer: "/face", detail: "must be one of only, largest"},
		{name: "array", body: `[]`, detail: "object"},
		{name: "text", body: `"probe"`, detail: "object"},
		{name: "cut short", body: `{"probe":"AQ`, detail: "too early"},
		{name: "empty", body: ``, detail: "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got api.VerifyRequest
			err := json.NewDecoder(strings.NewReader(c.body)).Decode(&got)
			if c.detail != "" {
				wantInvalid(t, err, c.pointer, c.detail)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func wantInvalid(t *testing.T, err error, pointer, detail string) {
	t.Helper()
	if err == nil {
		t.Fatal("the body was taken")
	}
	e := api.BodyError(err)
	if e.Kind != face.Invalid || len(e.Fields) != 1 {
		t.Fatalf("got %v", e)
	}
	if f := e.Fields[0]; f.Pointer != pointer || !strings.Contains(f.Detail, detail) {
		t.Errorf("got %q: %q; want %q: %q", f.Pointer, f.Detail, pointer, detail)
	}
}

// TestNamesOfMaps: an object whose members have no fixed names has each once.
func TestNamesOfMaps(t *testing.T) {
	t.Parallel()
	var b api.StyleLayers
	if err := json.Unmarshal([]byte(`{"content":{ "a:,}" : 1 , "b":2},"style":{ }}`), &b); err != nil || len(b.Content) != 2 || len(b.Style) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	wantInvalid(t, json.Unmarshal([]byte(`{"style":{"a":1,"b":2 , "\u0061" :3}}`), &b), "/style", "more than once")
	wantInvalid(t, json.Unmarshal([]byte(`{"style":{"a":[1]}}`), &b), "/style", "must be a JSON object")
}

func TestMissing(t *testing.T) {
	t.Parallel()
	var b api.DetectRequest
	wantInvalid(t, json.Unmarshal([]byte(`{"max_faces":3}`), &b), "/image", "missing")
	wantInvalid(t, api.ReadForm(multipart.NewReader(bytes.NewReader(form(t, part{"max_faces", "3"})), "b"), &b, 3), "/image", "missing")
}

func TestImages(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]api.Images{
		`{"probe":"AQID"}`:                          {{1, 2, 3}},
		`{"probe":["AQID","BAUG"]}`:                 {{1, 2, 3}, {4, 5, 6}},
		`{"probe":[ "-_8" , "data:;base64,AQ==" ]}`: {{251, 255}, {1}},
		`{"probe":[]}`:                              {},
	} {
		var b api.RecognizeRequest
		if err := json.Unmarshal([]byte(body), &b); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if diff := cmp.Diff(want, b.Probe); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}

type part struct{ name, value string }

func form(t *testing.T, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary("b"); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if err := w.WriteField(p.name, p.value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestForm reads multipart bodies into the types of the JSON bodies.
func TestForm(t *testing.T) {
	t.Parallel()
	yes := form(t,
		part{"probe", "one"}, part{"probe", "two"}, part{"fuse", "true"}, part{"k", "7"}, part{"gallery", "staff"})
	var got api.RecognizeRequest
	if err := api.ReadForm(multipart.NewReader(bytes.NewReader(yes), "b"), &got, 3); err != nil {
		t.Fatal(err)
	}
	want := api.RecognizeRequest{Probe: api.Images{[]byte("one"), []byte("two")}, Fuse: new(true), K: new(7), Gallery: new("staff")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		name            string
		body            []byte
		pointer, detail string
	}{
		{"unknown", form(t, part{"image", "x"}), "/image", "unknown"},
		{"without a name", form(t, part{"", "x"}), "", "without a name"},
		{"twice", form(t, part{"probe", "x"}, part{"k", "1"}, part{"k", "1"}), "/k", "more than once"},
		{"not a number", form(t, part{"k", "one"}), "/k", "must be a whole number from 1 to 100"},
		{"nothing", form(t, part{"k", ""}), "/k", "must be a whole number from 1 to 100"},
		{"wrong type", form(t, part{"k", `"1"`}), "/k", "must be a whole number from 1 to 100"},
		{"out of range", form(t, part{"k", "101"}), "/k", "must be a whole number from 1 to 100"},
		{"no truth", form(t, part{"fuse", "yes"}), "/fuse", "must be true or false"},
		{"too long", form(t, part{"model_id", strings.Repeat("m", 129)}), "/model_id", "at most 128 characters"},
		{"NUL", form(t, part{"model_id", "a\x00"}), "/model_id", "NUL"},
		{"no text", form(t, part{"gallery", "\xff"}), "/gallery", "UTF-8"},
		{"not of the enum", form(t, part{"faces", "ALL"}), "/faces", "must be one of all, largest"},
		{"cut short", yes[:60], "", "too early"},
		{"cut between parts", yes[:len(yes)-4], "", "too early"},
		{"no boundary", []byte("hello"), "", "too early"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var b api.RecognizeRequest
			wantInvalid(t, api.ReadForm(multipart.NewReader(bytes.NewReader(c.body), "b"), &b, 3), c.pointer, c.detail)
		})
	}
	wantInvalid(t, api.ReadForm(multipart.NewReader(bytes.NewReader(form(t, part{"face", "largest"})), "b"), new(api.EmbedRequest), 3), "/image", "missing")
	err := api.ReadForm(multipart.NewReader(bytes.NewReader(yes), "b"), new(api.RecognizeRequest), 2)
	var e *face.Error
	if !errors.As(err, &e) || e.Kind != face.TooLarge || e.Fields[0].Pointer != "/probe" {
		t.Errorf("an image over the limit: %v", err)
	}
}

// FuzzJSON wants the strict reader to take only what encoding/json takes, and
// with the same result; but for images, which clients write in more ways.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"probe":"AQID","subject_id":"ada"}`, `{"probe":"AQ\"ID"}`, ` { "k" : 1 } `, `{"probe_embedding":[1,2]}`,
		`{"a":{"b":[1,{"c":"}"}]}}`, `{"\\":1,"\"":2}`, `[]`, `{`, `nul`, `{"probe":null}`,
	} {
		f.Add([]byte(s))
	}
	type plain api.VerifyRequest // without the strict method
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict api.VerifyRequest
		err := json.Unmarshal(data, &strict)
		if err != nil {
			if api.BodyError(err).Kind != face.Invalid {
				t.Fatalf("refused as %v", err)
			}
			return
		}
		var loose plain
		err = json.Unmarshal(data, &loose)
		if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
			return // an image that is written in another way
		}
		if err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		if diff := cmp.Diff(loose, plain(strict)); diff != "" {
			t.Fatalf("read differently (-encoding/json +strict):\n%s", diff)
		}
	})
}

// FuzzForm wants every multipart body to be read or refused.
func FuzzForm(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"probe\"\r\n\r\nx\r\n--b--\r\n"))
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"probe_embedding\"\r\n\r\n[1,NaN]\r\n--b--\r\n"))
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"face\"\r\n\r\nall\r\n--b"))
	f.Add([]byte("--b--"))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := api.ReadForm(multipart.NewReader(bytes.NewReader(data), "b"), new(api.VerifyRequest), 64)
		if k := face.KindOf(err); err != nil && k != face.Invalid && k != face.TooLarge {
			t.Fatalf("refused as %v", err)
		}
	})
}

// TestManyImages: what is over the number of images is not read.
func TestManyImages(t *testing.T) {
	t.Parallel()
	var got api.RecognizeRequest
	for n, want := range map[int]bool{1: true, api.MaxImages: true, api.MaxImages + 1: false, 1 << 20: false} {
		err := json.Unmarshal([]byte(`{"probe":["AQID"`+strings.Repeat(` , "AQID"`, n-1)+`]}`), &got)
		if (err == nil) != want || want && len(got.Probe) != n {
			t.Errorf("%d images: %d read, %v", n, len(got.Probe), err)
		}
		part := "--b\r\nContent-Disposition: form-data; name=\"probe\"\r\n\r\nx\r\n"
		form := multipart.NewReader(strings.NewReader(strings.Repeat(part, n)+"--b--\r\n"), "b")
		if err := api.ReadForm(form, new(api.RecognizeRequest), 10); (err == nil) != want {
			t.Errorf("%d parts: %v", n, err)
		}
	}
}
