package api

import (
	"cmp"
	"maps"
	"net/http"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Media types of the contract whose bodies come piece by piece and may go on
// for any time.
const (
	NDJSON      = "application/x-ndjson" // of imports and exports
	EventStream = "text/event-stream"    // of jobs that are followed
)

const formType = "multipart/form-data"

// Operation is what the contract says of a method of a route. The server acts
// on it, so that a new route needs a place in the contract and a handler, and
// nothing else.
type Operation struct {
	ID     string // operationId
	Method string // such as POST
	Route  string // with the names of its parameters, such as /galleries/{gallery}

	// Scope is what the API key needs. It is empty where anybody may call.
	Scope face.Scope
	// BodyTypes are the media types that the body may have, in alphabetical
	// order. None: the operation takes no body.
	BodyTypes []string
	// AnswerTypes are the media types of good answers, in alphabetical order.
	AnswerTypes []string
	// PhotoOptional: the operation takes photos, but requires none, since it
	// takes embeddings as well.
	PhotoOptional bool
	// Replayed: the operation takes an Idempotency-Key, and a request with the
	// same one is answered as before.
	Replayed bool
	// Repeatable: the operation takes no Idempotency-Key, though its method is
	// one that may change something, because it may be sent again as it is.
	Repeatable bool
	// ErasedWithSubject: a stored answer is erased together with the subject
	// that it is about. The subject is the last part of its Location where the
	// route does not name it.
	ErasedWithSubject bool

	query map[string]*schema // of the parameters of the query, by name
}

// TakesBody reports whether the operation takes a body.
func (o Operation) TakesBody() bool { return len(o.BodyTypes) > 0 }

// TakesForm reports whether the body may be multipart/form-data, which is so
// where it may have photos.
func (o Operation) TakesForm() bool { return slices.Contains(o.BodyTypes, formType) }

// TakesLines reports whether the body is read line by line as it arrives.
func (o Operation) TakesLines() bool { return slices.Contains(o.BodyTypes, NDJSON) }

// Streams reports whether the body or the answer comes piece by piece, so that
// neither its size nor its time is bounded.
func (o Operation) Streams() bool {
	return o.TakesLines() || slices.Contains(o.AnswerTypes, NDJSON) || slices.Contains(o.AnswerTypes, EventStream)
}

// Operations lists the operations of the contract, ordered by route and method.
func Operations() []Operation {
	return slices.SortedFunc(maps.Values(parsed().operations), func(a, b Operation) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method))
	})
}

// FindOperation finds the operation of a method, where HEAD is GET, and a
// route. ok is false where the contract has none.
func FindOperation(method, route string) (o Operation, ok bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	o, ok = parsed().operations[method+" "+route]
	return o, ok
}

// pathItem is a path of the contract.
type pathItem struct {
	Parameters                    []parameter
	Get, Put, Post, Patch, Delete *operation
}

// operation is an operation as it is written in the contract.
type operation struct {
	ID          string `yaml:"operationId"`
	Parameters  []parameter
	Security    []map[string][]string
	RequestBody struct{ Content map[string]content } `yaml:"requestBody"`
	Responses   map[string]response
	Repeatable  bool   `yaml:"x-likeness-repeatable"`
	ErasedWith  string `yaml:"x-likeness-erased-with"`
}

type response struct {
	Ref     string `yaml:"$ref"`
	Content map[string]content
}

type content struct{ Schema *schema }

// parameter is a parameter of the query, the path or the header.
type parameter struct {
	Ref      string `yaml:"$ref"`
	Name, In string
	Schema   *schema
}

// readOperations collects what the server needs to know of each operation.
func (d *document) readOperations() {
	d.operations = map[string]Operation{}
	for route, item := range d.Paths {
		for method, written := range map[string]*operation{
			http.MethodGet: item.Get, http.MethodPut: item.Put, http.MethodPost: item.Post,
			http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
		} {
			if written == nil {
				continue
			}
			o := Operation{
				ID: written.ID, Method: method, Route: route,
				BodyTypes:  slices.Sorted(maps.Keys(written.RequestBody.Content)),
				Repeatable: written.Repeatable, ErasedWithSubject: written.ErasedWith == "subject",
				query: map[string]*schema{},
			}
			for status, answer := range written.Responses {
				if answer.Ref != "" {
					answer = d.Components.Responses[refName(answer.Ref)]
				}
				if status[0] == '2' {
					o.AnswerTypes = slices.Sorted(maps.Keys(answer.Content))
				}
			}
			for _, requirement := range written.Security {
				for _, scopes := range requirement {
					o.Scope = face.Scope(scopes[0])
				}
			}
			if form, ok := written.RequestBody.Content[formType]; ok {
				o.PhotoOptional = !d.requiresFile(d.resolve(form.Schema))
			}
			for _, p := range slices.Concat(item.Parameters, written.Parameters) {
				if p.Ref != "" {
					p = d.Components.Parameters[refName(p.Ref)]
				}
				switch {
				case p.In == "query":
					o.query[p.Name] = d.resolve(p.Schema)
				case p.In == "header" && p.Name == "Idempotency-Key":
					o.Replayed = true
				}
			}
			d.operations[method+" "+route] = o
		}
	}
}

// requiresFile reports whether a form must have a file.
func (d *document) requiresFile(form *schema) bool {
	return slices.ContainsFunc(form.Required, func(name string) bool {
		field := d.resolve(form.Properties[name])
		if field.Type == "array" {
			field = d.resolve(field.Items)
		}
		return field.Format == "binary"
	})
}
