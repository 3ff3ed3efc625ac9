package grad

// Unclipped returns the input of the Relu or Clip that computes a value, also
// for the parts of a Concat: a unit that is silent has a gradient only there.
// Any other value is returned unchanged.
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
