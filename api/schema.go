package api

import (
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/likeness-id/likeness/pkg/face"
)

// document is the contract as far as the server acts on it.
type document struct {
	Paths      map[string]pathItem
	Components struct {
		Parameters map[string]parameter
		Responses  map[string]response
		Schemas    map[string]*schema
	}

	operations map[string]Operation // by method and route
}

// schema is what the contract says of a value.
type schema struct {
	Ref              string `yaml:"$ref"`
	Type             string
	Format           string
	ContentEncoding  string `yaml:"contentEncoding"`
	Pattern          string
	Enum             []string
	Minimum          string
	Maximum          string
	ExclusiveMinimum string `yaml:"exclusiveMinimum"`
	MinLength        int    `yaml:"minLength"`
	MaxLength        int    `yaml:"maxLength"`
	MinItems         int    `yaml:"minItems"`
	MaxItems         int    `yaml:"maxItems"`
	Items            *schema
	OneOf            []*schema `yaml:"oneOf"`
	Properties       map[string]*schema
	Required         []string
}

// parsed is the contract, read once.
//
//nolint:gochecknoglobals // encoding/json hands the methods that need it nothing that it could be kept in
var parsed = sync.OnceValue(func() *document {
	d := &document{}
	if err := yaml.Unmarshal([]byte(contract), d); err != nil {
		panic("the contract is not YAML: " + err.Error())
	}
	d.readOperations()
	return d
})

// resolve follows references. A schema that is not there allows everything.
func (d *document) resolve(s *schema) *schema {
	for s != nil && s.Ref != "" {
		s = d.Components.Schemas[refName(s.Ref)]
	}
	if s == nil {
		return &schema{}
	}
	return s
}

// member is what the contract says of a member of the object that a Go type
// stands for.
func (d *document) member(object reflect.Type, name string) *schema {
	return d.resolve(d.resolve(d.Components.Schemas[object.Name()]).Properties[name])
}

// refName is the name of the component that a reference names.
func refName(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// CheckQuery checks the query of a request against the contract. A parameter
// that the operation does not have, one that comes more than once, and a value
// that its schema does not allow are Invalid. A route that is not in the
// contract takes every query.
func CheckQuery(method, route, query string) error {
	operation, ok := FindOperation(method, route)
	if !ok || query == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		values, err := url.ParseQuery(pair)
		if err != nil {
			name, _, _ := strings.Cut(pair, "=")
			return InvalidParameter(name, "cannot be read: write % as %25 and ; as %3B")
		}
		for name := range values { // one, or none between two &
			detail, value := "", values.Get(name)
			switch s := operation.query[name]; {
			case s == nil:
				detail = "unknown parameter"
			case seen[name] && s.Type != "array":
				detail = "comes more than once"
			case !utf8.ValidString(value):
				detail = "is not UTF-8"
			case strings.ContainsRune(value, 0):
				detail = "has a NUL character"
			case !s.accepts(value):
				detail = s.requirement()
			}
			if detail != "" {
				return InvalidParameter(name, detail)
			}
			seen[name] = true
		}
	}
	return nil
}

// InvalidParameter is an Invalid error about one parameter of the query, the
// path or the headers.
func InvalidParameter(name, detail string) *face.Error {
	e := InvalidField("", detail)
	e.Fields[0].Pointer = face.Excerpt(name)
	return e
}

// accepts reports whether a text is a value of the schema.
func (s *schema) accepts(text string) bool {
	switch s.Type {
	case "array":
		return parsed().resolve(s.Items).accepts(text)
	case "integer":
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && s.within(float64(n))
	case "number":
		x, err := strconv.ParseFloat(text, 64)
		return err == nil && s.within(x)
	case "boolean":
		_, err := strconv.ParseBool(text)
		return err == nil
	}
	return s.acceptsString(text)
}

func (s *schema) acceptsString(text string) bool {
	switch n := utf8.RuneCountInString(text); {
	case len(s.Enum) > 0:
		return slices.Contains(s.Enum, text)
	case s.Pattern != "": // the handlers know better words for what an id is
		return true
	default:
		return n >= s.MinLength && (s.MaxLength == 0 || n <= s.MaxLength)
	}
}

// within reports whether a number is in the schema's range.
func (s *schema) within(x float64) bool {
	limit := func(text string, otherwise float64) float64 {
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			return v
		}
		return otherwise // there is none
	}
	return x >= limit(s.Minimum, math.Inf(-1)) && x <= limit(s.Maximum, math.Inf(1)) && x > limit(s.ExclusiveMinimum, math.Inf(-1))
}

// allows reports whether a value that was read is one of the schema.
func (s *schema) allows(v reflect.Value) bool {
	switch {
	case v.Kind() == reflect.String:
		return s.acceptsString(v.String())
	case v.CanInt():
		return s.within(float64(v.Int()))
	case v.CanUint():
		return s.within(float64(v.Uint()))
	case v.CanFloat():
		return s.within(v.Float())
	case s.Type == "array":
		return v.Len() >= s.MinItems && (s.MaxItems == 0 || v.Len() <= s.MaxItems)
	}
	return true
}

// requirement says what a value of the schema must be.
func (s *schema) requirement() string { return "must be " + s.describe() }

// describe is a value of the schema in words.
func (s *schema) describe() string {
	switch {
	case len(s.OneOf) > 0:
		var all []string
		for _, o := range s.OneOf {
			all = append(all, parsed().resolve(o).describe())
		}
		return strings.Join(all, ", or ")
	case len(s.Enum) > 0:
		return "one of " + strings.Join(s.Enum, ", ")
	case s.Type == "array":
		return "an array of" + describeCount(s.MinItems, s.MaxItems) + " " + parsed().resolve(s.Items).describeMany()
	case s.Type == "object":
		return "a JSON object"
	case s.Type == "boolean":
		return "true or false"
	case s.Type == "integer":
		return "a whole number" + s.describeRange()
	case s.Type == "number":
		return "a number" + s.describeRange()
	case s.Format == "date-time":
		return "a time as 2026-11-23T09:30:00Z"
	case s.ContentEncoding == "base64":
		return "base64, standard or URL-safe, or a data: URI of it"
	case s.MaxLength > 0 && s.Pattern == "":
		return "a string of" + describeCount(s.MinLength, s.MaxLength) + " characters"
	}
	return "a string"
}

// describeMany is several values of the schema in words.
func (s *schema) describeMany() string {
	switch {
	case s.ContentEncoding == "base64":
		return "strings of base64"
	case s.Type == "object":
		return "JSON objects"
	case s.Type == "number":
		return "numbers" + s.describeRange()
	}
	return "strings"
}

// describeRange is the range of a number in words.
func (s *schema) describeRange() string {
	switch {
	case s.ExclusiveMinimum != "" && s.Maximum != "":
		return " above " + s.ExclusiveMinimum + " and at most " + s.Maximum
	case s.ExclusiveMinimum != "":
		return " above " + s.ExclusiveMinimum
	case s.Minimum != "" && s.Maximum != "":
		return " from " + s.Minimum + " to " + s.Maximum
	case s.Minimum != "":
		return " of at least " + s.Minimum
	case s.Maximum != "":
		return " of at most " + s.Maximum
	}
	return ""
}

// describeCount is a number of things in words, where it is bounded.
func describeCount(least, most int) string {
	switch {
	case most == 0:
		return ""
	case least == 0:
		return fmt.Sprintf(" at most %d", most)
	}
	return fmt.Sprintf(" %d to %d", least, most)
}
