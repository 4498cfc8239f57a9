package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template/parse"
)

// Limits of a description template. The author of a role writes it, and it is
// executed in the process of all mounts. A template that loops, or whose output
// grows without limit, could stop them all.
const (
	maxTemplateCalls  = 8   // function calls in one template
	maxTemplateNumber = 100 // largest argument
)

// templateFunctions are the functions that a template may call. The last five are
// built into text/template, the others come from the SDK's helper/template.
var templateFunctions = map[string]bool{
	"random": true, "truncate": true, "truncate_sha256": true, "uppercase": true, "lowercase": true,
	"sha256": true, "base64": true, "unix_time": true, "unix_time_millis": true, "timestamp": true, "uuid": true,
	"and": true, "eq": true, "ne": true, "not": true, "or": true,
}

// checkTemplate refuses templates that could run long or produce much text.
func checkTemplate(text string) error {
	tree := parse.New("description")
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(text, "", "", trees); err != nil {
		return err
	}
	if len(trees) > 1 {
		return fmt.Errorf("define is not allowed in a description")
	}
	calls := 0
	return checkNode(tree.Root, &calls)
}

// checkNode checks a node and its children, and counts the calls.
func checkNode(node parse.Node, calls *int) error {
	switch n := node.(type) {
	case *parse.ListNode:
		return checkNodes(n.Nodes, calls)
	case *parse.ActionNode:
		return checkNode(n.Pipe, calls)
	case *parse.IfNode:
		branches := []parse.Node{n.Pipe, n.List}
		if n.ElseList != nil {
			branches = append(branches, n.ElseList)
		}
		return checkNodes(branches, calls)
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			return fmt.Errorf("variables are not allowed in a description")
		}
		return checkNodes(n.Cmds, calls)
	case *parse.CommandNode:
		return checkNodes(n.Args, calls)
	case *parse.IdentifierNode:
		*calls++
		if !templateFunctions[n.Ident] {
			return fmt.Errorf("%s is not allowed in a description; the functions are %s", n.Ident, strings.Join(slices.Sorted(maps.Keys(templateFunctions)), ", "))
		}
		if *calls > maxTemplateCalls {
			return fmt.Errorf("a description may call %d functions, not more", maxTemplateCalls)
		}
		return nil
	case *parse.NumberNode:
		if !n.IsInt || n.Int64 < 0 || n.Int64 > maxTemplateNumber {
			return fmt.Errorf("numbers in a description must be between 0 and %d", maxTemplateNumber)
		}
		return nil
	case *parse.TextNode, *parse.FieldNode, *parse.StringNode, *parse.BoolNode:
		return nil
	}
	return fmt.Errorf("%s is not allowed in a description: it takes fields, functions and if", node)
}

func checkNodes[N parse.Node](nodes []N, calls *int) error {
	for _, node := range nodes {
		if err := checkNode(node, calls); err != nil {
			return err
		}
	}
	return nil
}
