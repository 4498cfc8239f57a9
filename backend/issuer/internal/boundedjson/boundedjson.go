// Package boundedjson reads JSON that a server or a program sent, with bounded
// memory. Its own errors never quote what was read, which may hold a secret.
package boundedjson

import (
	"encoding/json"
	"errors"
	"io"
)

var (
	// ErrTooLong means that an entry, or the whole text, is longer than allowed.
	ErrTooLong = errors.New("the answer is longer than allowed")

	// ErrSyntax means that the text is not JSON, ends early, or does not have
	// the expected types.
	ErrSyntax = errors.New("the answer is not the expected JSON")
)

// ReadAll reads r to its end. It returns ErrTooLong if there are more than limit
// bytes.
func ReadAll(r io.Reader, limit int) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(text) > limit {
		return nil, ErrTooLong
	}
	return text, err
}

// Value reads r to its end and decodes the one JSON value in it, of at most
// limit bytes.
func Value(r io.Reader, limit int, value any) error {
	text, err := ReadAll(r, limit)
	if err != nil {
		return err
	}
	return hideText(json.Unmarshal(text, value))
}

// Array decodes the array at the beginning of r and calls yield for each entry as
// it arrives. An entry, with the white space before it, has at most limit bytes.
//
// It returns nil only after the end of the array: an entry that is missing from
// an array that breaks off may exist. The caller must then read rest, which is
// what follows the array. Errors of yield, of r and of the entry type's
// UnmarshalJSON are returned as they are.
func Array[T any](r io.Reader, limit int, yield func(T) error) (rest io.Reader, err error) {
	in := &entryReader{in: r, limit: int64(limit)}
	decoder, err := openArray(in)
	if err != nil {
		return nil, err
	}
	for decoder.More() {
		var entry T
		if err := decoder.Decode(&entry); err != nil {
			return nil, hideText(err)
		}
		if in.entryEnds(decoder.InputOffset()) > int64(limit) {
			return nil, ErrTooLong
		}
		if err := yield(entry); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, hideText(err)
	}
	return io.MultiReader(decoder.Buffered(), r), nil
}

// StartsArray reads the beginning of r and returns nil if it is that of an array.
func StartsArray(r io.Reader) error {
	_, err := openArray(r)
	return err
}

// End reads r to its end and returns ErrSyntax if there is anything but white
// space, or ErrTooLong if there are more than limit bytes.
func End(r io.Reader, limit int) error {
	var buffer [4096]byte
	for total := 0; total <= limit; {
		n, err := r.Read(buffer[:])
		total += n
		for _, c := range buffer[:n] {
			if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
				return ErrSyntax
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ErrTooLong
}

func openArray(r io.Reader) (*json.Decoder, error) {
	decoder := json.NewDecoder(r)
	start, err := decoder.Token()
	switch {
	case err != nil:
		return nil, hideText(err)
	case start != json.Delim('['):
		return nil, ErrSyntax
	}
	return decoder, nil
}

// hideText replaces the errors of encoding/json, which may quote what was read.
func hideText(err error) error {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax), errors.As(err, &wrongType), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrSyntax
	}
	return err
}

// An entryReader fails when the decoder asks for more than an entry may have.
type entryReader struct {
	in    io.Reader
	limit int64
	read  int64
	done  int64 // where the last decoded entry ends
}

func (e *entryReader) Read(p []byte) (int, error) {
	if e.read-e.done > e.limit {
		return 0, ErrTooLong
	}
	n, err := e.in.Read(p)
	e.read += int64(n)
	return n, err
}

// entryEnds records that an entry ends at offset and returns its length.
func (e *entryReader) entryEnds(offset int64) int64 {
	length := offset - e.done
	e.done = offset
	return length
}
