package client

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"reflect"
	"strings"
)

// Photo is a picture that is sent, as the camera wrote it. The contract says
// which types of images the server reads. The zero value is no photo.
type Photo struct {
	data   []byte
	source io.Reader
}

// PhotoBytes is the photo of a file's bytes.
func PhotoBytes(data []byte) Photo {
	if data == nil {
		data = []byte{} // empty, which the server refuses; it is not absent
	}
	return Photo{data: data}
}

// PhotoReader is the photo that a reader has. It is read once, when the request
// is made, so it can be sent in one request.
func PhotoReader(source io.Reader) Photo { return Photo{source: source} }

func (p Photo) writeTo(w io.Writer) error {
	if p.source == nil {
		_, err := w.Write(p.data)
		return err
	}
	_, err := io.Copy(w, p.source)
	return err
}

// form is a struct that is sent as multipart/form-data.
type form struct{ fields any }

// encode writes each field that is not zero: photos as files without a name,
// texts as they are, and anything else as JSON.
func (f form) encode() (content []byte, kind string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	v := reflect.ValueOf(f.fields)
	for i := range v.NumField() {
		field := v.Field(i)
		if field.IsZero() {
			continue
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if err := writeField(w, name, field); err != nil {
			return nil, "", fmt.Errorf("field %s: %w", name, err)
		}
	}
	err = w.Close()
	return b.Bytes(), w.FormDataContentType(), err
}

func writeField(w *multipart.Writer, name string, field reflect.Value) error {
	switch value := field.Interface().(type) {
	case Photo:
		part, err := w.CreateFormFile(name, "image") // the name of a file may say whose photo it is
		if err != nil {
			return err
		}
		return value.writeTo(part)
	case []Photo:
		for i := range value {
			if err := writeField(w, name, field.Index(i)); err != nil {
				return err
			}
		}
		return nil
	}
	if text := reflect.Indirect(field); text.Kind() == reflect.String {
		return w.WriteField(name, text.String())
	}
	text, err := json.Marshal(field.Interface())
	return errors.Join(err, w.WriteField(name, string(text)))
}

// Numbers are those of an embedding. In JSON they are an array, or base64 of
// little-endian IEEE 754 numbers of 4 bytes, which keeps them bit for bit and
// is how they are written.
type Numbers []float32

// UnmarshalJSON reads either form.
func (n *Numbers) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '"' {
		return json.Unmarshal(data, (*[]float32)(n))
	}
	var raw []byte
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	if len(raw)%4 != 0 {
		return fmt.Errorf("%d bytes are no numbers of 4 bytes", len(raw))
	}
	*n = make(Numbers, len(raw)/4)
	for i := range *n {
		(*n)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// MarshalJSON writes base64.
func (n Numbers) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(n))
	for _, v := range n {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(raw)), nil
}
