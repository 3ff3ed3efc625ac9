package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxField bounds a field that is no image, in either encoding. The longest
// one is an embedding of 4096 numbers.
const maxField = 128 << 10

// maxName bounds the name of a member, escapes included, before it is looked at.
const maxName = 1 << 10

// MaxImages is how many images one field may have.
const MaxImages = 8

var (
	errType       = errors.New("is of another type")
	errManyImages = fmt.Errorf("must be 1 to %d images", MaxImages)
)

// Images is one image or several: in JSON a string or an array of strings,
// in multipart a part that may be repeated.
type Images [][]byte

// UnmarshalJSON reads one base64 string, or an array of them. It counts the
// array first: a body has room for millions of empty strings.
func (i *Images) UnmarshalJSON(data []byte) error {
	*i = Images{}
	if data[0] != '[' {
		image, err := decodeBase64(data)
		*i = append(*i, image)
		return err
	}
	rest := bytes.TrimLeft(data[1:], " \t\r\n")
	for n := 0; rest[0] != ']'; n++ {
		if n == MaxImages {
			return errManyImages
		}
		end := valueEnd(rest)
		image, err := decodeBase64(bytes.TrimSpace(rest[:end]))
		if err != nil {
			return InvalidField(strconv.Itoa(n), parsed().Components.Schemas["Image"].requirement())
		}
		*i = append(*i, image)
		if rest = rest[end:]; rest[0] == ',' {
			rest = rest[1:]
		}
	}
	return nil
}

// InvalidField is an Invalid error about one field of a body; name is empty for
// the body itself. A caller chose the name, so no more than an excerpt is told.
func InvalidField(name, detail string) *face.Error {
	pointer := ""
	if name != "" {
		pointer = "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(face.Excerpt(name))
	}
	return &face.Error{
		Kind: face.Invalid, Op: "api.body", Detail: "The request breaks the contract.",
		Fields: []face.FieldError{{Pointer: pointer, Detail: detail}},
	}
}

// BodyError turns what went wrong while a body was read into a [face.Error]:
// TooLarge over the limit of [http.MaxBytesReader], Deadline for a sender who
// is too slow, Invalid for a body that is empty or malformed.
func BodyError(err error) *face.Error {
	var known *face.Error
	var tooLarge *http.MaxBytesError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &tooLarge):
		return face.Errorf(face.TooLarge, "api.body", "The body is larger than %d bytes.", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &face.Error{Kind: face.Deadline, Op: "api.body", Err: err}
	case errors.As(err, &syntax):
		return InvalidField("", "is not JSON: "+syntax.Error())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return InvalidField("", "ends too early")
	case errors.Is(err, io.EOF):
		return InvalidField("", "is empty")
	}
	e := InvalidField("", "cannot be read")
	e.Err = err
	return e
}

// fields finds the fields of a request struct by their names in the contract.
type fields struct {
	object reflect.Type
	byName map[string]reflect.Value
	needed []string // required ones that have not come yet, in order
	seen   map[string]bool
}

func fieldsOf(into any) *fields {
	v := reflect.ValueOf(into).Elem()
	f := &fields{object: v.Type(), byName: map[string]reflect.Value{}, seen: map[string]bool{}}
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		f.byName[name] = v.Field(i)
		if option != "omitempty" {
			f.needed = append(f.needed, name)
		}
	}
	return f
}

// find is the field of a member that has come. In a form, Images may come more than once.
func (f *fields) find(name string, form bool) (reflect.Value, error) {
	field, ok := f.byName[name]
	if !ok {
		return field, InvalidField(name, "unknown field")
	}
	if f.seen[name] && (!form || field.Type() != reflect.TypeFor[Images]()) {
		return field, InvalidField(name, "comes more than once")
	}
	f.seen[name] = true
	return field, nil
}

// missing is the error about required fields that have not come, or nil.
func (f *fields) missing() error {
	for _, name := range f.needed {
		if !f.seen[name] {
			return InvalidField(name, "is missing")
		}
	}
	return nil
}

// readObject reads the members of a JSON object into a struct. encoding/json
// calls UnmarshalJSON with valid JSON only, so here it is enough to find where
// the members begin and end; an image of megabytes is not copied for that.
func readObject(data []byte, into any) error {
	if data[0] != '{' {
		return InvalidField("", "must be a JSON object")
	}
	f := fieldsOf(into)
	rest := bytes.TrimLeft(data[1:], " \t\r\n")
	for rest[0] != '}' {
		end := valueEnd(rest)
		var name string
		if end > maxName {
			return InvalidField(string(rest[1:maxName]), "unknown field")
		}
		if err := json.Unmarshal(rest[:end], &name); err != nil {
			return InvalidField("", "has a name that cannot be read")
		}
		rest = rest[end:]
		rest = rest[bytes.IndexByte(rest, ':')+1:]
		end = valueEnd(rest)
		field, err := f.find(name, false)
		if err == nil {
			err = setJSON(field, name, rest[:end], parsed().member(f.object, name))
		}
		if err != nil {
			return err
		}
		rest = rest[end:]
		if rest[0] == ',' {
			rest = rest[1:]
		}
		rest = bytes.TrimLeft(rest, " \t\r\n")
	}
	return f.missing()
}

// valueEnd is the length of the JSON value, with the space around it, that
// valid JSON begins with: what comes before the next colon, comma or bracket
// of the level.
func valueEnd(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return len(data)
}

// setJSON sets a field from a JSON value, which must be as the contract says.
func setJSON(field reflect.Value, name string, value []byte, s *schema) error {
	value = bytes.TrimSpace(value)
	if string(value) == "null" {
		return InvalidField(name, "must not be null")
	}
	if !utf8.Valid(value) {
		return InvalidField(name, "is not UTF-8")
	}
	if len(value) > maxField && !isImage(field) && field.Type() != reflect.TypeFor[BulkTemplates]() {
		return tooLong(name, maxField)
	}
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	err := s.unmarshal(value, field)
	if known, ok := errors.AsType[*face.Error](err); ok { // of a part of the value
		return within(name, known)
	}
	if err != nil {
		return InvalidField(name, s.requirement())
	}
	return s.check(field, name)
}

// unmarshal reads a JSON value. What encoding/json would read as something
// else than it is, is an error.
func (s *schema) unmarshal(value []byte, into reflect.Value) (err error) {
	switch {
	case len(value) == 0, // in a form
		s.Type == "object" && value[0] != '{',
		s.Type == "array" && parsed().resolve(s.Items).Type == "number" && bytes.Contains(value, []byte("null")):
		return errType
	case into.Type() == reflect.TypeFor[Image]():
		var raw []byte
		raw, err = decodeBase64(value)
		into.SetBytes(raw)
		return err
	}
	err = json.Unmarshal(value, into.Addr().Interface())
	if err == nil && into.Kind() == reflect.Map && into.Len() < countMembers(value) {
		return InvalidField("", "has a name more than once")
	}
	return err
}

// countMembers counts the members of a JSON object, which is valid.
func countMembers(object []byte) (n int) {
	rest := bytes.TrimLeft(object[1:], " \t\r\n")
	for ; rest[0] != '}'; n++ {
		rest = rest[valueEnd(rest)+1:] // the name
		rest = rest[valueEnd(rest):]
		if rest[0] == ',' {
			rest = bytes.TrimLeft(rest[1:], " \t\r\n")
		}
	}
	return n
}

// check refuses a value that the contract does not allow.
func (s *schema) check(v reflect.Value, name string) error {
	switch {
	case v.Kind() == reflect.String && strings.ContainsRune(v.String(), 0):
		return InvalidField(name, "has a NUL character")
	case !s.allows(v):
		return InvalidField(name, s.requirement())
	}
	return nil
}

// setText sets a field from the text of a multipart part: a string from the
// text as it stands, anything else from JSON.
func setText(field reflect.Value, name string, text []byte, s *schema) error {
	target := field
	if field.Kind() == reflect.Pointer {
		target = reflect.New(field.Type().Elem()).Elem()
	}
	if target.Kind() != reflect.String {
		return setJSON(field, name, text, s)
	}
	if !utf8.Valid(text) {
		return InvalidField(name, "is not UTF-8")
	}
	target.SetString(string(text))
	if field.Kind() == reflect.Pointer {
		field.Set(target.Addr())
	}
	return s.check(target, name)
}

// isImage reports whether a field has images, which have their own limit.
func isImage(field reflect.Value) bool {
	return field.Type() == reflect.TypeFor[Images]() || field.Type() == reflect.TypeFor[Image]()
}

func tooLong(name string, limit int64) error {
	e := face.Errorf(face.TooLarge, "api.body", "The part is larger than %d bytes.", limit)
	e.Fields = InvalidField(name, e.Detail).Fields
	return e
}

// ReadForm reads the parts of a multipart body into the struct of the JSON
// body of the same operation, which into points at. Images are read up to
// maxImage bytes each. The error is a [face.Error]: what [BodyError] says, or
// TooLarge for an image over the limit, or Invalid with a pointer. Where the
// body is cut short, what the form is read from must end with
// [io.ErrUnexpectedEOF]: package multipart takes a bare end within the header
// of a part for the end of the form.
func ReadForm(form *multipart.Reader, into any, maxImage int64) error {
	f := fieldsOf(into)
	for {
		part, err := form.NextPart()
		switch {
		case err == io.EOF: // bare at the end, and wrapped where the body is cut short
			return f.missing()
		case errors.Is(err, io.EOF):
			return InvalidField("", "ends too early")
		case err != nil:
			return BodyError(err)
		}
		if err := f.readPart(part, maxImage); err != nil {
			return err
		}
	}
}

func (f *fields) readPart(part *multipart.Part, maxImage int64) error {
	name := part.FormName()
	if name == "" {
		return InvalidField("", "has a part without a name")
	}
	field, err := f.find(name, true)
	if err != nil {
		return err
	}
	limit := int64(maxField)
	image := isImage(field)
	if image {
		limit = maxImage
	}
	if field.Type() == reflect.TypeFor[Images]() && field.Len() == MaxImages {
		return InvalidField(name, errManyImages.Error())
	}
	data, err := io.ReadAll(io.LimitReader(part, limit+1))
	if err != nil {
		return BodyError(err)
	}
	if int64(len(data)) > limit {
		return tooLong(name, limit)
	}
	switch {
	case !image:
		return setText(field, name, data, parsed().member(f.object, name))
	case field.Type() == reflect.TypeFor[Images]():
		field.Set(reflect.Append(field, reflect.ValueOf(data)))
	default:
		field.SetBytes(data)
	}
	return nil
}
