package api

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/likeness-id/likeness/pkg/face"
)

// MaxBulkLine is the longest line of an import, in bytes.
const MaxBulkLine = 8 << 20

// MaxBulkTemplates is the most templates of one line.
const MaxBulkTemplates = 1000

// BulkTemplates are the templates of one line.
type BulkTemplates []BulkTemplate

// BulkEmbedding is an embedding whose numbers survive as they are: in JSON it
// is written as base64, and read as that or as an array.
type BulkEmbedding []float32

var errNumbers = errors.New("must be an array of numbers, or base64 of float32 numbers")

// ParseBulkSubject reads one line strictly; the error is a [face.Error].
func ParseBulkSubject(line []byte) (BulkSubject, error) {
	var b BulkSubject
	if err := json.Unmarshal(line, &b); err != nil {
		return b, BodyError(err)
	}
	return b, nil
}

// AppendBulkSubject appends the line of a subject, its end included.
func AppendBulkSubject(line []byte, b BulkSubject) ([]byte, error) {
	out := bytes.NewBuffer(line)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false) // it would make metadata longer than what may be imported
	if err := enc.Encode(b); err != nil {
		return line, face.Wrap(face.Internal, "api.AppendBulkSubject", err)
	}
	return out.Bytes(), nil
}

// UnmarshalJSON reads the array so that an error says which template it is of.
func (b *BulkTemplates) UnmarshalJSON(data []byte) error {
	if data[0] != '[' {
		return InvalidField("", "must be an array")
	}
	rest := bytes.TrimLeft(data[1:], " \t\r\n")
	for i := 0; rest[0] != ']'; i++ {
		if i == MaxBulkTemplates {
			return InvalidField("", fmt.Sprintf("must hold at most %d templates", MaxBulkTemplates))
		}
		end := valueEnd(rest)
		var t BulkTemplate
		err := InvalidField("", "must be a JSON object")
		if value := bytes.TrimSpace(rest[:end]); value[0] == '{' {
			err = nil
			if e := json.Unmarshal(value, &t); e != nil {
				err = BodyError(e)
			}
		}
		if err != nil {
			return within(strconv.Itoa(i), err)
		}
		*b = append(*b, t)
		if rest = rest[end:]; rest[0] == ',' {
			rest = bytes.TrimLeft(rest[1:], " \t\r\n")
		}
	}
	return nil
}

// within is an error about a part of a value as one about the whole.
func within(name string, err *face.Error) *face.Error {
	e := *err
	e.Fields = nil
	for _, f := range err.Fields {
		e.Fields = append(e.Fields, face.FieldError{Pointer: InvalidField(name, "").Fields[0].Pointer + f.Pointer, Detail: f.Detail})
	}
	return &e
}

// UnmarshalJSON reads either form.
func (b *BulkEmbedding) UnmarshalJSON(data []byte) error {
	switch {
	case data[0] == '"':
		raw, err := decodeBase64(data)
		if err != nil {
			return err
		}
		if len(raw)%4 != 0 {
			return errNumbers
		}
		*b = make(BulkEmbedding, len(raw)/4)
		for i := range *b {
			(*b)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		return nil
	case data[0] == '[' && !bytes.Contains(data, []byte("null")): // which would be read as 0
		return json.Unmarshal(data, (*[]float32)(b))
	}
	return errNumbers
}

// MarshalJSON writes base64.
func (b BulkEmbedding) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(b))
	for _, v := range b {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(raw)), nil
}
