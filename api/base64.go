package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
)

var errBase64 = errors.New("not base64")

// decodeBase64 reads the JSON value of bytes as clients write it: a string in
// the standard or the URL-safe alphabet, with or without padding and line
// breaks, bare or as a data: URI, whose media type is not looked at. What has
// no escapes in it is not copied.
func decodeBase64(value []byte) ([]byte, error) {
	if value[0] != '"' {
		return nil, errBase64
	}
	text := value[1 : len(value)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return nil, err
		}
		text = []byte(s)
	}
	if scheme := "data:"; len(text) >= len(scheme) && strings.EqualFold(string(text[:len(scheme)]), scheme) {
		head, data, ok := bytes.Cut(text, []byte(","))
		if !ok || !bytes.HasSuffix(bytes.ToLower(head), []byte(";base64")) {
			return nil, errBase64
		}
		if text = data; bytes.IndexByte(text, '%') >= 0 { // a URI may write any character so
			s, err := url.PathUnescape(string(text))
			if err != nil {
				return nil, err
			}
			text = []byte(s)
		}
	}
	encoding := base64.StdEncoding
	if bytes.ContainsAny(text, "-_") {
		encoding = base64.URLEncoding
	}
	if !bytes.HasSuffix(bytes.TrimRight(text, "\r\n"), []byte("=")) {
		encoding = encoding.WithPadding(base64.NoPadding)
	}
	raw := make([]byte, encoding.DecodedLen(len(text)))
	n, err := encoding.Decode(raw, text) // which passes over line breaks
	return raw[:n], err
}
