package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"reflect"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/likeness-id/likeness/api"
)

// TestWrongTypes puts a value of every type into every field of every body:
// what is not of the field's type is refused there, and it is said what is wanted.
func TestWrongTypes(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(api.Contract()))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"string": `"?"`, "integer": "7", "number": "7.5", "boolean": "true", "array": "[[]]", "object": `{"":[]}`}
	for _, body := range []any{
		api.VerifyRequest{}, api.RecognizeRequest{}, api.DetectRequest{}, api.EmbedRequest{}, api.EnrolRequest{},
		api.GalleryCreate{}, api.GalleryUpdate{}, api.SubjectCreate{}, api.SubjectUpdate{}, api.MigrateRequest{},
		api.StyleTransferRequest{}, api.StyleParams{}, api.StyleLayers{}, api.BulkSubject{}, api.BulkTemplate{},
	} {
		object := reflect.TypeOf(body)
		for name, s := range doc.Components.Schemas[object.Name()].Value.Properties {
			for kind, value := range values {
				types := s.Value.Type
				if types.Is(kind) || types.Is("number") && kind == "integer" {
					continue
				}
				into := reflect.New(object).Interface()
				where := fmt.Sprintf("%s.%s = %s", object.Name(), name, value)
				wantRefusal(t, where, json.Unmarshal(fmt.Appendf(nil, "{%q:%s}", name, value), into), name)
				if s.Value.Type.Is("string") || strings.Contains(where, "Bulk") {
					continue // in a form, any text is one
				}
				if f := object.Field(fieldOf(t, object, name)); f.Type == reflect.TypeFor[api.Images]() {
					continue // in a form, any bytes are one
				}
				into = reflect.New(object).Interface()
				wantRefusal(t, "form of "+where, api.ReadForm(multipart.NewReader(bytes.NewReader(form(t, part{name, value})), "b"), into, 9), name)
			}
		}
	}
}

func fieldOf(t *testing.T, object reflect.Type, name string) int {
	t.Helper()
	for i := range object.NumField() {
		if n, _, _ := strings.Cut(object.Field(i).Tag.Get("json"), ","); n == name {
			return i
		}
	}
	t.Fatalf("%s has no %s", object, name)
	return 0
}

func wantRefusal(t *testing.T, where string, err error, name string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was taken", where)
		return
	}
	f := api.BodyError(err).Fields
	if len(f) != 1 || !strings.HasPrefix(f[0].Pointer, "/"+name) || !strings.HasPrefix(f[0].Detail, "must be ") {
		t.Errorf("%s: %+v", where, f)
	}
}
