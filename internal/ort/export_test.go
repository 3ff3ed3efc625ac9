package ort

// FuseSlopes is what a model goes through when it is loaded.
func FuseSlopes(model []byte) ([]byte, error) { return fuseSlopes(model) }
