package style

import (
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// tile is a window of a tensor that is computed at once; all windows have the
// same size. Only a part of the window counts: no other tile counts that part,
// and it sees the same input as in the whole tensor.
type tile struct {
	start    []int // of the window
	from, to []int // the part that counts
}

// tiling cuts a tensor into tiles.
type tiling struct {
	size, window []int
	tiles        []tile
	stride       map[string][]int // of each layer
}

func (t tiling) whole() bool { return len(t.tiles) == 1 }

// The sides of tiles, and of pictures that are cut into tiles, are multiples of
// grain.
const grain = 32

// planTiles plans tiles of at most so many numbers along a side.
func planTiles(f features, channels int, size []int, layers []string, most int) (tiling, error) {
	t := tiling{size: size, window: slices.Clone(size), stride: map[string][]int{}}
	if slices.Max(size) <= most {
		zero := make([]int, len(size))
		t.tiles = []tile{{zero, zero, size}}
		return t, nil
	}
	g := grad.NewGraph()
	image := g.Input("image", tensorShape(channels, size)...)
	values, err := f.add(g, image, layers)
	if err != nil {
		return t, err
	}
	before, after := make([]int, len(size)), make([]int, len(size))
	for _, name := range layers {
		r, err := g.Reach(values[name], image)
		if err != nil {
			return t, err
		}
		var strides []int
		for i := range size {
			if grain%r.Stride[i] != 0 {
				return t, face.Errorf(face.Invalid, "style", "layer %q has a stride of %d, and %d is not a multiple: it cannot be computed in parts", name, r.Stride[i], grain)
			}
			strides = append(strides, int(r.Stride[i]))
			before[i] = max(before[i], (int(r.Before[i])+grain-1)/grain*grain)
			// The part that counts ends at a multiple of the stride.
			after[i] = max(after[i], (int(r.After[i]-r.Stride[i]+1)+grain-1)/grain*grain)
		}
		t.stride[name] = strides
	}
	var axes [][]tile
	for i, n := range size {
		window, tiles, err := cutAxis(n, most, before[i], after[i])
		if err != nil {
			return t, err
		}
		t.window[i] = window
		axes = append(axes, tiles)
	}
	t.tiles = []tile{{}}
	for _, along := range axes {
		var next []tile
		for _, a := range t.tiles {
			for _, b := range along {
				next = append(next, tile{
					slices.Concat(a.start, b.start), slices.Concat(a.from, b.from), slices.Concat(a.to, b.to),
				})
			}
		}
		t.tiles = next
	}
	return t, nil
}

// cutAxis cuts one axis into the fewest and shortest windows that reach far
// enough beyond the part of them that counts.
func cutAxis(n, most, before, after int) (int, []tile, error) {
	if n <= most {
		return n, []tile{{[]int{0}, []int{0}, []int{n}}}, nil
	}
	most -= most % grain
	both := before + after
	if n%grain != 0 || most <= both {
		return 0, nil, face.Errorf(face.Invalid, "style", "%d numbers cannot be cut into parts of %d that overlap by %d", n, most, both)
	}
	// The first window has nothing before it, the last nothing after it.
	count := (n - both + most - both - 1) / (most - both)
	part := (n - both + count - 1) / count
	window := (part+grain-1)/grain*grain + both
	var tiles []tile
	for from := 0; from < n; {
		start := min(max(from-before, 0), n-window)
		to := start + window - after
		if start == n-window {
			to = n
		}
		tiles = append(tiles, tile{[]int{start}, []int{from}, []int{to}})
		from = to
	}
	return window, tiles, nil
}

// at is a layer's part of a tile: where the window begins in the layer, and
// what counts in it.
func (t tiling) at(name string, whole layer, tl tile) (start, from, to []int) {
	for i, s := range t.stride[name] {
		start = append(start, tl.start[i]/s)
		from = append(from, tl.from[i]/s)
		end := tl.to[i] / s
		if tl.to[i] == t.size[i] {
			end = whole.size[i]
		}
		to = append(to, end)
	}
	return start, from, to
}

// eachRow calls visit for every row along the last axis of a window of a
// tensor: its offset in the whole and in the window.
func eachRow(channels int, size, window, start []int, visit func(whole, part, n int)) {
	last := len(size) - 1
	lines := area(window[:last])
	for c := range channels {
		for line := range lines {
			rest, whole, step := line, 0, 1
			for axis := last; axis >= 0; axis-- {
				i := 0
				if axis < last {
					i = rest % window[axis]
					rest /= window[axis]
				}
				whole += (start[axis] + i) * step
				step *= size[axis]
			}
			visit(c*area(size)+whole, (c*lines+line)*window[last], window[last])
		}
	}
}

// window copies a part of a tensor.
func copyWindow(dst, src []float32, channels int, size, window, start []int) {
	eachRow(channels, size, window, start, func(whole, part, n int) { copy(dst[part:][:n], src[whole:][:n]) })
}

// addWindow adds a part to a tensor.
func addWindow(dst, src []float32, channels int, size, window, start []int) {
	eachRow(channels, size, window, start, func(whole, part, n int) {
		d := dst[whole:][:n]
		for i, v := range src[part:][:n] {
			d[i] += v
		}
	})
}

// maskOf fills a layer's mask for a tile: the whole layer's mask, or ones,
// where the tile counts, and zeros elsewhere.
func (t tiling) maskOf(dst []float32, name string, whole layer, window []int, tl tile, mask []float32) {
	clear(dst)
	start, from, to := t.at(name, whole, tl)
	count, inner := make([]int, len(from)), make([]int, len(from))
	for i := range from {
		count[i], inner[i] = to[i]-from[i], from[i]-start[i]
	}
	// The part that counts, as offsets in the window and in the layer.
	var offsets []int
	eachRow(1, window, count, inner, func(at, _, _ int) { offsets = append(offsets, at) })
	i := 0
	eachRow(1, whole.size, count, from, func(at, _, n int) {
		row := dst[offsets[i]:][:n]
		i++
		if mask != nil {
			copy(row, mask[at:][:n])
			return
		}
		for j := range row {
			row[j] = 1
		}
	})
}
