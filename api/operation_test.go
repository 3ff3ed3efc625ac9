package api_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

func load(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(api.Contract()))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestOperations checks that the contract states, for each operation, every
// fact that the server acts on.
func TestOperations(t *testing.T) {
	t.Parallel()
	doc := load(t)
	bodies := [][]string{nil, {"application/json"}, {"application/json", "multipart/form-data"}, {api.NDJSON}}
	for _, o := range api.Operations() {
		written := doc.Paths.Value(o.Route).GetOperation(o.Method)
		fault := func(text string) { t.Errorf("%s %s (%s): %s", o.Method, o.Route, o.ID, text) }
		if written.Security == nil {
			fault("security is not stated")
		} else if open := len(*written.Security) == 0; open != (o.Scope == "") || !open && !slices.Contains(face.Scopes(), o.Scope) {
			fault("its scope is not one of a key")
		}
		for _, requirement := range *written.Security {
			for scheme, scopes := range requirement {
				if !slices.Equal(scopes, []string{string(o.Scope)}) {
					fault("the scopes of " + scheme + " differ")
				}
			}
		}
		if o.Scope != "" && !strings.Contains(written.Description, "Scope `"+string(o.Scope)+"`") {
			fault("its description does not name the scope")
		}
		if !slices.ContainsFunc(bodies, func(types []string) bool { return slices.Equal(types, o.BodyTypes) }) {
			fault("the server does not read such a body")
		}
		if len(o.AnswerTypes) == 0 {
			fault("no good answer is stated")
		}
		writes := o.Method != http.MethodGet
		if writes != (o.Replayed || o.Repeatable) || o.Replayed && o.Repeatable {
			fault("a method that writes takes an Idempotency-Key or is x-likeness-repeatable, and no other is")
		}
		aboutSubject := strings.Contains(o.Route, "/subjects") && o.Replayed && o.Method != http.MethodDelete
		if aboutSubject != o.ErasedWithSubject {
			fault("x-likeness-erased-with is for answers about a subject that are stored and no receipt")
		}
		if o.TakesForm() {
			content := written.RequestBody.Value.Content
			inForm := slices.Sorted(maps.Keys(content["multipart/form-data"].Schema.Value.Properties))
			inJSON := slices.Sorted(maps.Keys(content["application/json"].Schema.Value.Properties))
			if diff := cmp.Diff(inJSON, inForm); diff != "" {
				fault("JSON and the form have other fields:\n" + diff)
			}
		}
		if found, ok := api.FindOperation(o.Method, o.Route); !ok || found.ID != o.ID {
			fault("is not found")
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if _, ok := api.FindOperation(method, path); !ok {
				t.Errorf("%s %s is not read", method, path)
			}
		}
	}
	if _, ok := api.FindOperation(http.MethodPut, "/verify"); ok {
		t.Error("PUT /verify is found")
	}
}

// TestPlainContract keeps out of the contract what only one generator
// understands, and what pages that try the API out would fill in by themselves:
// a default of an optional field, which may contradict other fields.
func TestPlainContract(t *testing.T) {
	t.Parallel()
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(api.Contract()), &root); err != nil {
		t.Fatal(err)
	}
	var walk func(n *yaml.Node, pointer string)
	walk = func(n *yaml.Node, pointer string) {
		for i, child := range n.Content {
			if n.Kind != yaml.MappingNode {
				walk(child, pointer)
				continue
			}
			if i%2 == 1 {
				continue
			}
			key, value := child.Value, n.Content[i+1]
			switch named := strings.HasSuffix(pointer, "/properties"); {
			case key == "examples", key == "value", key == "mapping":
				continue // of any form
			case strings.HasPrefix(key, "x-") && !strings.HasPrefix(key, "x-likeness-"):
				t.Errorf("%s/%s: belongs into codegen.overlay.yaml", pointer, key)
			case named:
			case key == "default":
				t.Errorf("%s: a default would be filled in; the description says it", pointer)
			case key == "const", key == "nullable", key == "anyOf", key == "not", key == "patternProperties":
				t.Errorf("%s: many generators do not know %s", pointer, key)
			case key == "example" && !required(n):
				t.Errorf("%s: an example of an optional value would be filled in", pointer)
			}
			walk(value, pointer+"/"+key)
		}
	}
	walk(&root, "")
}

// required reports whether a parameter must be there.
func required(parameter *yaml.Node) bool {
	for i := 0; i+1 < len(parameter.Content); i += 2 {
		if parameter.Content[i].Value == "required" {
			return parameter.Content[i+1].Value == "true"
		}
	}
	return false
}

// TestNames: generators make types of schemas, and types of operations with
// Request, Response and Params after their names. No two may be the same.
func TestNames(t *testing.T) {
	t.Parallel()
	doc, seen := load(t), map[string]string{}
	use := func(name, what string) {
		name = strings.ToLower(name)
		if before, ok := seen[name]; ok {
			t.Errorf("%s and %s get the same name", before, what)
		}
		seen[name] = what
	}
	for name := range doc.Components.Schemas {
		use(name, "the schema "+name)
	}
	for _, o := range api.Operations() {
		use(o.ID+"Response", "the answer of "+o.ID)
		use(o.ID+"Params", "the parameters of "+o.ID)
	}
	for name := range doc.Components.Parameters {
		use(name, "the parameter "+name)
	}
	for name := range doc.Components.Responses {
		use(name, "the response "+name)
	}
}
