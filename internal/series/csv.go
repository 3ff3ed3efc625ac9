package series

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"strconv"
	"strings"
)

// decodeCSV reads columns of numbers. A first line without any number is a
// heading.
func decodeCSV(data []byte) (*Field, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.Comment, r.TrimLeadingSpace, r.ReuseRecord = '#', true, true
	var samples []float32
	channels := 0
	for first := true; ; first = false {
		record, err := r.Read() // which refuses lines of other lengths
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, invalid("%v", err)
		}
		if len(samples)+len(record) > maxValues {
			return nil, invalid("over %d numbers", maxValues)
		}
		channels = len(record)
		heading := first
		for i, text := range record {
			x, err := strconv.ParseFloat(strings.TrimSpace(text), 32)
			if err == nil {
				heading = false
			} else if !first || !heading {
				line, column := r.FieldPos(i)
				return nil, invalid("line %d, column %d: %q is no number", line, column, text)
			}
			if !heading {
				samples = append(samples, float32(x))
			}
		}
		if !heading && len(samples)%channels != 0 {
			return nil, invalid("the first line is neither a heading nor numbers")
		}
	}
	if len(samples) == 0 {
		return nil, invalid("no numbers")
	}
	return channelsFirst(samples, channels), nil
}

func (f *Field) encodeCSV() []byte {
	channels, length := int(f.Shape[0]), int(f.Shape[1])
	var out []byte
	for i := range length {
		for c := range channels {
			if c > 0 {
				out = append(out, ',')
			}
			out = strconv.AppendFloat(out, float64(f.Data[c*length+i]), 'g', -1, 32)
		}
		out = append(out, '\n')
	}
	return out
}
