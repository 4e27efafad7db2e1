/** A binary search tree: insertion, depth, traversal, removal. */
public class Tree {
    Tree left;
    Tree right;
    int key;
    static int nodes;

    Tree(int key) {
        this.key = key;
        nodes++;
    }

    static Tree insert(Tree tree, int key) {
        if (tree == null) {
            return new Tree(key);
        }
        if (key < tree.key) {
            tree.left = insert(tree.left, key);
        } else if (key > tree.key) {
            tree.right = insert(tree.right, key);
        }
        return tree;
    }

    static Tree remove(Tree tree, int key) {
        if (tree == null) {
            return null;
        }
        if (key < tree.key) {
            tree.left = remove(tree.left, key);
        } else if (key > tree.key) {
            tree.right = remove(tree.right, key);
        } else if (tree.left == null) {
            return tree.right;
        } else if (tree.right == null) {
            return tree.left;
        } else {
            Tree next = tree.right;
            while (next.left != null) {
                next = next.left;
            }
            tree.key = next.key;
            tree.right = remove(tree.right, next.key);
        }
        return tree;
    }

    static int depth(Tree tree) {
        return tree == null ? 0 : 1 + Math.max(depth(tree.left), depth(tree.right));
    }

    static int count(Tree tree) {
        return tree == null ? 0 : 1 + count(tree.left) + count(tree.right);
    }

    static int check(Tree tree, int last) {
        if (tree == null) {
            return last;
        }
        last = check(tree.left, last);
        if (tree.key <= last) {
            throw new IllegalStateException(tree.key + " after " + last);
        }
        return check(tree.right, tree.key);
    }

    static void print(Tree tree, StringBuilder to, int most) {
        if (tree != null && to.length() < most) {
            print(tree.left, to, most);
            to.append(tree.key).append(' ');
            print(tree.right, to, most);
        }
    }

    public static void main(String[] args) {
        Tree tree = null;
        int key = 7;
        for (int i = 0; i < 200; i++) {
            key = (key * 73 + 11) % 1009;
            tree = insert(tree, key);
        }
        System.out.println("nodes " + nodes + ", counted " + count(tree) + ", depth " + depth(tree));
        System.out.println("largest " + check(tree, -1));
        for (int i = 0; i < 1009; i += 3) {
            tree = remove(tree, i);
        }
        System.out.println("left " + count(tree) + ", depth " + depth(tree) + ", largest " + check(tree, -1));
        StringBuilder text = new StringBuilder();
        print(tree, text, 60);
        System.out.println(text);
    }
}
