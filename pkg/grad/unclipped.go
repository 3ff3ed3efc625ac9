package grad

// Unclipped is what a value was computed from before a Relu or a Clip, also of
// the parts of a Concat: where a unit is silent, its gradient is there only.
// Any other value is its own.
func (g *Graph) Unclipped(v *Value) *Value {
	if v.from == nil {
		return v
	}
	switch n := v.from; n.op {
	case "Relu", "Clip":
		return g.Unclipped(n.inputs[0])
	case "Concat":
		parts := make([]*Value, len(n.inputs))
		for i, in := range n.inputs {
			parts[i] = g.Unclipped(in)
		}
		return g.Concat(int(n.attrs.int("axis", 0)), parts...)
	}
	return v
}
