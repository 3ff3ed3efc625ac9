package main

import (
	"bytes"
	"image"
	"image/jpeg"

	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/internal/photos"
)

// sizes are the sizes of the measured photos: an LFW photo, and the same
// enlarged to the size of a webcam's and of a phone's photo.
type size struct {
	name          string
	width, height int
}

func sizes() []size {
	return []size{{"250x250", 250, 250}, {"1 MP", 1152, 864}, {"12 MP", 4032, 3024}}
}

// people is one photo each of n people, in archive order.
func (b *bench) people(n int) ([][]byte, error) {
	set, err := photos.Open(b.Images)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	var out [][]byte
	for _, name := range set.Names() {
		if len(out) == n {
			break
		}
		if len(name) < 8 || name[len(name)-8:] != "0001.jpg" {
			continue
		}
		photo, err := set.ReadFile(name)
		if err != nil {
			return nil, err
		}
		out = append(out, photo)
	}
	return out, nil
}

// enlarge puts a photo into a frame of the given size, its height filling the
// frame, as a JPEG of quality 90.
func enlarge(photo []byte, s size) ([]byte, error) {
	src, err := jpeg.Decode(bytes.NewReader(photo))
	if err != nil {
		return nil, err
	}
	if src.Bounds().Dx() == s.width && src.Bounds().Dy() == s.height {
		return photo, nil
	}
	frame := image.NewRGBA(image.Rect(0, 0, s.width, s.height))
	draw.Draw(frame, frame.Bounds(), image.White, image.Point{}, draw.Src)
	left := (s.width - s.height) / 2
	draw.CatmullRom.Scale(frame, image.Rect(left, 0, left+s.height, s.height), src, src.Bounds(), draw.Src, nil)
	var out bytes.Buffer
	err = jpeg.Encode(&out, frame, &jpeg.Options{Quality: 90})
	return out.Bytes(), err
}
