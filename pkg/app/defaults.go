package app

import (
	"fmt"
	"reflect"
	"time"
)

// DefaultOptions are the options with the defaults that their tags name: those
// of the command server when nothing is set.
func DefaultOptions() Options {
	var o Options
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		text, ok := v.Type().Field(i).Tag.Lookup("default")
		if !ok {
			continue
		}
		var err error
		switch p := v.Field(i).Addr().Interface().(type) {
		case *string:
			*p = text
		case *time.Duration:
			*p, err = time.ParseDuration(text)
		default:
			_, err = fmt.Sscan(text, p)
		}
		if err != nil {
			panic(fmt.Sprintf("app.Options.%s: default %q: %v", v.Type().Field(i).Name, text, err))
		}
	}
	return o
}
